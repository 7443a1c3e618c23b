//! Discovery of vbd devices in xenstore and the xenbus state machine.
