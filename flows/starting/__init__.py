"""What comes before a flow: environment, settings, checked inputs, a claimed folder."""
