"""Who is served and when: API keys and quotas, admission, fair queueing, single-flight."""
