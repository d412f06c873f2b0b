"""HTTP: thin routes over `storage`'s reads. Async. FastAPI is imported in this package alone, and no SQL stands here."""
