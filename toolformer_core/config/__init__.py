"""What decides a result, as frozen settings of each stage; and the runtime, which decides none."""
