"""What makes scores comparable: few-shot prompts, intervals, the gate, the paper's figures."""
