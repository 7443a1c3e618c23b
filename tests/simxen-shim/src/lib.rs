//! Preloaded library that points gntdev and libxenevtchn at a simulated Xen host.
