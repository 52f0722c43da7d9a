// Package dnsmasq runs one dnsmasq per network, for DHCP, router advertisements and DNS. Each is a process in a session of its own that outlives the plugin, known again by its id,
// start time and command line; it runs as a user of its own with the few capabilities that it needs. Hosts and names change without a restart.
//
// Nothing that comes from outside is written into its files before Config.Check has passed it: the files have one statement a line, and a newline would begin another.
package dnsmasq
