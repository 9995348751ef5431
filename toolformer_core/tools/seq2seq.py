"""Translation into English by a transformers sequence-to-sequence model (paper, section 3: NLLB).

Greedy, in batches. A model of the NLLB family is told the source language by a code such as
spa_Latn and starts its answer with eng_Latn; MADLAD-400 is told the target by <2en>; any other
(Marian, T5) gets the text as it is. Nothing is loaded before the first text.
"""

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch  # Legend: B batch, T tokens
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import logging

from toolformer_core.errors import ConfigError
from toolformer_core.models import folder_digest
from toolformer_core.tools.translators import BACKENDS

MAX_SOURCE_TOKENS, MAX_NEW_TOKENS = 512, 256
_BATCH_SIZE = 16

_ENGLISH, _MADLAD_ENGLISH = "eng_Latn", "<2en>"

_NLLB = """
af=afr_Latn am=amh_Ethi ar=arb_Arab arz=arz_Arab as=asm_Beng ast=ast_Latn az=azj_Latn
azb=azb_Arab ba=bak_Cyrl be=bel_Cyrl bg=bul_Cyrl bh=bho_Deva bn=ben_Beng bo=bod_Tibt bs=bos_Latn
ca=cat_Latn ceb=ceb_Latn ckb=ckb_Arab cs=ces_Latn cy=cym_Latn da=dan_Latn de=deu_Latn el=ell_Grek
eo=epo_Latn es=spa_Latn et=est_Latn eu=eus_Latn fa=pes_Arab fi=fin_Latn fr=fra_Latn ga=gle_Latn
gd=gla_Latn gl=glg_Latn gn=grn_Latn gu=guj_Gujr he=heb_Hebr hi=hin_Deva hr=hrv_Latn ht=hat_Latn
hu=hun_Latn hy=hye_Armn id=ind_Latn ilo=ilo_Latn is=isl_Latn it=ita_Latn ja=jpn_Jpan jv=jav_Latn
ka=kat_Geor kk=kaz_Cyrl km=khm_Khmr kn=kan_Knda ko=kor_Hang ku=kmr_Latn ky=kir_Cyrl lb=ltz_Latn
li=lim_Latn lmo=lmo_Latn lo=lao_Laoo lt=lit_Latn lv=lvs_Latn mai=mai_Deva mg=plt_Latn min=min_Latn
mk=mkd_Cyrl ml=mal_Mlym mn=khk_Cyrl mr=mar_Deva ms=zsm_Latn mt=mlt_Latn my=mya_Mymr ne=npi_Deva
nl=nld_Latn nn=nno_Latn no=nob_Latn oc=oci_Latn or=ory_Orya pa=pan_Guru pl=pol_Latn
ps=pbt_Arab pt=por_Latn qu=quy_Latn ro=ron_Latn ru=rus_Cyrl sa=san_Deva sc=srd_Latn
scn=scn_Latn sd=snd_Arab sh=hrv_Latn si=sin_Sinh sk=slk_Latn sl=slv_Latn so=som_Latn sq=als_Latn
sr=srp_Cyrl su=sun_Latn sv=swe_Latn sw=swh_Latn ta=tam_Taml te=tel_Telu tg=tgk_Cyrl th=tha_Thai
tk=tuk_Latn tl=tgl_Latn tr=tur_Latn tt=tat_Cyrl ug=uig_Arab uk=ukr_Cyrl ur=urd_Arab uz=uzn_Latn
vec=vec_Latn vi=vie_Latn war=war_Latn yi=ydd_Hebr yo=yor_Latn yue=yue_Hant zh=zho_Hans
"""
NLLB_CODES = dict(pair.split("=") for pair in _NLLB.split())
"""NLLB's code for each language that fastText tells and NLLB knows."""


class Seq2SeqTranslator:
    """A translation model by its folder, or by its hub id as NAME or NAME@REVISION.

    Choice: bfloat16, in which NLLB 600M fits the memory that a tool's process may use.
    """

    def __init__(self, name: str, *, device: str = "cpu", dtype: str = "bfloat16") -> None:
        self._place, self._revision = name, None
        if (folder := Path(name)).is_dir():
            self.name = f"{folder.resolve().name} {folder_digest(folder, dtype)}"
        else:
            self._place, _, revision = name.partition("@")
            self._revision = revision or None
            self.name = f"{name} {dtype}"
        self._device, self._dtype = device, getattr(torch, dtype)
        self._lock = threading.Lock()

    @property
    def languages(self) -> frozenset[str] | None:
        """Those whose code the model has; None if it has no codes.

        Raises: ConfigError if the model cannot be loaded.
        """
        with self._lock:
            vocabulary = self._tokenizer.get_vocab()
        if _ENGLISH not in vocabulary:
            return None
        return frozenset(iso for iso, code in NLLB_CODES.items() if code in vocabulary)

    def translate(self, texts: Sequence[str], language: str) -> list[str]:
        """One translation per text; a text is read up to 512 tokens.

        Raises: ConfigError if the model cannot be loaded.
        """
        longest_first = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        translations: dict[int, str] = {}
        with self._lock:  # the tokenizer keeps the source language
            for start in range(0, len(texts), _BATCH_SIZE):
                indices = longest_first[start : start + _BATCH_SIZE]
                batch = self._translate_batch([texts[index] for index in indices], language)
                translations.update(zip(indices, batch, strict=True))
        return [translations[index] for index in range(len(texts))]

    def _translate_batch(self, texts: list[str], language: str) -> list[str]:
        """The translations of texts that are read together."""
        model, tokenizer, options = self._model, self._tokenizer, {}
        vocabulary = tokenizer.get_vocab()
        if _ENGLISH in vocabulary:
            tokenizer.src_lang = NLLB_CODES[language]
            options["forced_bos_token_id"] = vocabulary[_ENGLISH]
        elif _MADLAD_ENGLISH in vocabulary:
            texts = [f"{_MADLAD_ENGLISH} {text}" for text in texts]
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_SOURCE_TOKENS, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            tokens_BT = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=False,
                num_beams=1,
                max_new_tokens=MAX_NEW_TOKENS,
                **options,
            )
        decoded = tokenizer.batch_decode(tokens_BT, skip_special_tokens=True)
        return [" ".join(text.split()) for text in decoded]

    @functools.cached_property
    def _tokenizer(self) -> Any:  # Any: of transformers, each class with fields of its own
        return self._load(AutoTokenizer)

    @functools.cached_property
    def _model(self) -> Any:  # Any: as above
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers
        model = self._load(AutoModelForSeq2SeqLM, dtype=self._dtype).to(self._device).eval()
        model.generation_config.max_length = None  # max_new_tokens is ours
        return model

    def _load(self, kind: Any, **options: Any) -> Any:  # Any: a class of transformers
        try:
            return kind.from_pretrained(self._place, revision=self._revision, **options)
        except (ImportError, OSError, ValueError) as error:
            raise ConfigError(
                f"tools.mt.backend {self._place!r}: not a sequence-to-sequence model that can be "
                f"loaded ({' '.join(str(error).split())[:200]}); expected {', '.join(BACKENDS)}, "
                "a transformers folder or a hub id"
            ) from error
