"""What an application holds: `Soniq` and `SoniqSync`, thin skins over the operations of `store`."""
