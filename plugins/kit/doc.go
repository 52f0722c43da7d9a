// Package kit holds what our own drivers share, each in a package of its own: qemuimg (the one place that runs qemu-img), qcow2 (what an image's
// header says), filepool (volumes and image copies as files in a directory, for local and NFS pools). Nothing here knows plugins or gRPC servers.
package kit
