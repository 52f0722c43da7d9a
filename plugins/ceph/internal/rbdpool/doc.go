// Package rbdpool keeps volumes, snapshots and image copies as RBD images in one pool (and namespace) of a Ceph cluster.
//
//	lq-volume-<id>.<nonce>   an RBD image per volume
//	lq-image-<id>.<nonce>    one per image copy, with the protected snapshot "lq"
//	limiquantix.<pool id>    the index: one RADOS object whose omap says what is there
//
// The index is what exists. An RBD image is made under a name of its own, after an intent is written; when it is complete, one atomic write replaces the
// intent by the record. So nothing half-made is ever listed, a repeated call never meets its own remains, and only what an intent names is swept up. Removal
// goes the other way: the record is replaced by a note of what is to be removed, which anybody may finish. All changes of the index are compare-and-swap on
// the object's version, so two nodes cannot both attach a volume, or make it.
//
// Why an index and not metadata of the RBD images: a page of a list is one request to one object, without opening an image; attachments need a
// compare-and-swap, which RBD metadata does not have. The index lies in the same pool, and is as durable as RBD's own directory there.
//
// Deleting a snapshot, or a volume, whose bytes clones still rest on: its record goes, and the RBD snapshot or image stays, unlisted, until the last of
// them is gone. Nothing is copied. An image copy with volumes on it is refused (IMAGE_IN_USE). A clone at the end of a long chain is flattened when made.
//
// Calls into the Ceph libraries cannot be interrupted. Each pool has a connection of its own and a limited number of goroutines; a call that ends early leaves
// its goroutine to the library's own time limits, and a pool that does not answer refuses calls at once (POOL_UNHEALTHY). No pool waits for another.
package rbdpool
