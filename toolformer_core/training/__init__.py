"""What fine-tuning is made of: examples out of C*, their loss, and the steps."""
