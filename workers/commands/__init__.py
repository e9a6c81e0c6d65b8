"""The life of a guest command on its node: started once, watched to its end, its result never dropped."""
