// Package kit holds what our own drivers share, each in a package of its own: qemuimg (the one place that runs qemu-img), qcow2 (what an image's
// header says), digest (a stream's checksum while it is copied), filepool (volumes and image copies as files in a directory), filedriver (the contract's calls on such pools, for the local and the NFS
// driver), ruleset (security rules as plans that network drivers render), netspec (what network drivers are asked for, checked). Nothing here knows plugins, and nothing but filedriver knows gRPC.
package kit
