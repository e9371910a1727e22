"""What is trained and evaluated end to end: data, prompts, reward, judges and metrics, one file a task."""
