"""OpenAI's API over a model that runs its tools, many texts decoded together."""
