"""The NeRF lifted from the known views: encoder -> frustum volumes -> field -> volume rendering [GeNVS]."""
