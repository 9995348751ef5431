"""Where a decision comes from: a call explained, traced to its texts, stated in the model card."""
