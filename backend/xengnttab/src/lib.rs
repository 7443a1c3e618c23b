//! Grant mapping over the Linux gntdev device, as RAII types.
