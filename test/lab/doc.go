// Package lab starts real backends for tests: a hypervisor node with its own
// libvirtd and QEMU, and guests small enough to boot without KVM.
//
// It needs root on a Debian 12 machine. What is missing is installed by apt,
// what is expensive is built once and kept in a cache (see [OpenCache]).
// Nothing here touches the machine's own libvirtd: a [Node] lives in its own
// mount, network, UTS and PID namespaces, and everything in it dies with the
// namespace's first process.
//
// The package knows nothing of limiquantix: it starts what drivers talk to.
package lab
