"""Voices: embeddings of speakers, and the gallery of those who are enrolled."""
