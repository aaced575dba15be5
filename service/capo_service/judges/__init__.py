"""Judge profiles: how one kind of judge is spoken to.

profile   a profile, and its folder's `profile.toml`
loading   which profile and which prompt a service uses
default/, paper/, ...   the profiles that come with the package
"""
