"""One call of a tool and what may become of it: time-outs, outages, memory, a recorded answer."""
