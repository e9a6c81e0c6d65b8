"""Taking secrets out of what a guest's agent said: some agents repeat what they don't like."""

import base64

_HIDDEN = "(hidden)"


def hide(text: str, *secrets: str) -> str:
    """Take secrets out of a text, as they are and in base64, the way in which an agent is told."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN).replace(base64.b64encode(secret.encode()).decode(), _HIDDEN)
    return text
