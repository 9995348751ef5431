"""Which texts of the demo are worth trying with which tool."""

from toolformer_core.records import Document


def is_article(document: Document) -> bool:
    """Whether the text has an address; generated problems have none, and no facts to look up."""
    return document.url is not None
