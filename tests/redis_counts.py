"""What Redis has been asked, counted by itself."""

from collections import Counter

import redis


def commands_served(client: redis.Redis) -> Counter[str]:
    """Count the commands that Redis has carried out, those that scripts gave included, by name.

    ``script`` is how many scripts ran, whether they were sent in full or by their digest.
    """
    stats = client.info("commandstats")
    served = Counter({
        name.removeprefix("cmdstat_"): entry["calls"] - entry["failed_calls"] for name, entry in stats.items()
    })
    served["script"] = served["eval"] + served["evalsha"]
    return served
