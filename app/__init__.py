"""The web half of OwnUp, and in ``app.core`` the contract that both halves share."""
