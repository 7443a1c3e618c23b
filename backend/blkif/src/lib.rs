//! The Xen blkif wire protocol, backend side: rings, requests, responses.
