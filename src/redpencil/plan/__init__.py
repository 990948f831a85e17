"""Will it fit, how long will it take: answered before anything loads."""
