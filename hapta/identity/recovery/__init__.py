"""The ways back in and around by mail: forgotten password, new address, undo of a changed address."""
