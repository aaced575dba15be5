"""Engines that run the judge, and the protocol that they implement (`base`)."""
