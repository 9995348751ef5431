"""A tool that answers from a table."""

from toolformer_core.tools.base import TEXT_PARAMETER, AnyPlace


class ScriptedTool(AnyPlace):
    """Answers with what its table says: a text, an exception, or a function of no argument."""

    name = "Scripted"
    description = "A table."
    version = "7"
    prompt = "{text}"
    takes_argument = True
    parameters = TEXT_PARAMETER
    context_fields = ("document_id", "url", "date")
    example = None

    def __init__(self, table):
        self.table = table
        self.calls = []

    def call(self, argument, context):
        self.calls.append((argument, context))
        answer = self.table[argument]
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer
