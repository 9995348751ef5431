"""The metrics of benchmarks once more, character by character: slow, and nothing shared."""

import unicodedata

QUOTES_AND_DASHES = {
    "\u2018": "'",
    "\u2019": "'",
    "\u02bc": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u2010": "-",
    "\u2011": "-",
    "\u2012": "-",
    "\u2013": "-",
    "\u2014": "-",
    "\u2212": "-",
}
DIGITS = "0123456789"


def at(text, place):
    """The character at a place, nothing outside the text."""
    return text[place] if 0 <= place < len(text) else ""


def is_digit(character):
    return character != "" and character in DIGITS


def end_of_digits(text, start):
    end = start
    while is_digit(at(text, end)):
        end += 1
    return end


def end_of_whole_number(text, start):
    """Behind the digits at `start`, and behind each group of exactly three that follows a comma."""
    end = end_of_digits(text, start)
    if end - start <= 3:
        while at(text, end) == "," and end_of_digits(text, end + 1) == end + 4:
            end += 4
    return end


def number_at(text, start):
    """Value and end of the unsigned number that starts there, if one does."""
    end = start
    if is_digit(at(text, start)):
        end = end_of_whole_number(text, start)
    if at(text, end) == "." and is_digit(at(text, end + 1)):
        end = end_of_digits(text, end + 1)
    if end == start:
        return None
    return float("".join(c for c in text[start:end] if c != ","))


def is_negative(text, start):
    """Whether a minus stands before the number, or before its currency sign."""
    before = start - 1
    if at(text, before) == " " and at(text, before - 1) in tuple("$\u20ac\u00a3"):
        before -= 2
    elif at(text, before) in tuple("$\u20ac\u00a3"):
        before -= 1
    earlier = at(text, before - 1)
    is_joined = earlier.isalnum() or earlier in ("_", ".")
    return at(text, before) in ("-", "\u2212") and not is_joined


def first_number_in(text):
    for start in range(len(text)):
        value = number_at(text, start)
        if value is not None:
            return -value if is_negative(text, start) else value
    return None


def slow_first_number(answer):
    for place, character in enumerate(answer):
        if character == "=":
            after = first_number_in(answer[place + 1 :])
            return after if after is not None else first_number_in(answer)
    return first_number_in(answer)


def slow_number_is_right(answer, gold):
    found = slow_first_number(answer)
    for text in gold:
        if found is not None and abs(found - float(text)) <= max(1.0, abs(float(text))) / 1_000_000:
            return True
    return False


def plain(text):
    """Lower case, plain quotes and dashes, and no commas in thousands."""
    composed = unicodedata.normalize("NFC", text)
    shaped = [QUOTES_AND_DASHES.get(character, character) for character in composed]
    kept, place = [], 0
    while place < len(shaped):
        starts = is_digit(shaped[place]) and at(shaped, place - 1) not in (*DIGITS, ",")
        end = end_of_whole_number(shaped, place) if starts else place + 1
        kept += [c for c in shaped[place:end] if end == place + 1 or c != ","]
        place = end
    return "".join(kept).casefold()


def slow_first_words_contain(answer, gold, num_words):
    words = plain(" ".join(answer.split()[:num_words]))
    for text in gold:
        wanted = plain(" ".join(text.split()))
        for start in range(len(words)):
            end = start + len(wanted)
            if wanted == "" or words[start:end] != wanted:
                continue
            is_part_of_word = at(words, start - 1).isalnum() or at(words, end).isalnum()
            is_fraction = at(words, start - 1) == "." and is_digit(at(words, start - 2))
            has_fraction = at(words, end) == "." and is_digit(at(words, end + 1))
            if not (is_part_of_word or is_fraction or has_fraction):
                return True
    return False
