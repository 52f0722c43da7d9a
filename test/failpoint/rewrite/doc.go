// Package rewrite makes controller and agent with failpoints: it finds, by type, every call that commits to the store, calls a driver or writes a file,
// and writes copies of the files in which each such call goes through package runtime. go build -overlay builds them; the tree itself holds none of it.
//
// A new call of one of these kinds is a new point, without anybody's doing. A point's id is the place: file, function, how many-th point in it, callee.
package rewrite
