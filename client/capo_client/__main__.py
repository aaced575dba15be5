"""`python -m capo_client` is `capo`."""

from capo_client.cli.main import main

main()
