"""What commands do without a flow: generate, serve, explain, call a tool."""
