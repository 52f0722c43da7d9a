// Package guest plays hypervisor and guest to a network driver: it plugs a tap into what AttachInterface handed out, as a hypervisor does, and is the guest behind
// it by reading and writing frames. No kernel's stack lies between: a guest sends exactly what it is told, lies too, and answers nothing but questions for its
// addresses. It must run in the network namespace of the driver, as root.
package guest
