"""HTTP: thin routes over `storage`'s read path. Async; FastAPI is imported here and nowhere else, SQL nowhere here."""
