// Package enforcer is a network driver that really filters, as naively as can be: everything is written anew at each change. It is what the checks of packets are
// tested with, whole and with defects planted; nobody should run it for anything else. What the contract says of keys, marks and generations it leaves to the reference driver.
package enforcer
