"""What tests share: signals, recordings, tiny models, corpora, and ways to run the command."""
