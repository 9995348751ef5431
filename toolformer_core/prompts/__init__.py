"""Few-shot annotation prompts P(x), one text file per tool."""
