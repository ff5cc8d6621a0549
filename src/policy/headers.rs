//! Which header fields pass, which go, and which the gateway sets.
