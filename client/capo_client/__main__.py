"""`python -m capo_client` is `capo`."""

from capo_client.cli import main

main()
