"""What runs inside vLLM's processes; it can be imported only where vLLM is installed."""
