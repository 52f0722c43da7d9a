// Package reconcile makes this node what the controller wants it to be. Every object has a worker of its own that is run when the object, what it depends
// on, or the host changes; it looks, decides (vmstep.go: a pure function), does one thing, and looks again. Nothing here waits for another object: a worker
// that cannot go on says why and when it is tried next, and ends.
//
//	engine.go    what is wanted, and who depends on whom       queue.go   one worker per object
//	vmstep.go    what to do next with a VM (pure)              vm.go      doing it
//	vmspec.go    what a driver gets for a VM (pure)            vmreport.go  what the controller is told
//	volume.go pool.go image.go   the other kinds               survey.go  adoption, orphans
//	networking.go                networks: order, states, calls
//	ruleset.go addressset.go     what may pass                 network.go netdriver.go netport.go portuse.go  where it passes
//	vmnic.go                     NICs of a VM                  netwatch.go netsurvey.go netdrift.go portreport.go  what is seen
//	failure.go   what an error means for the next try          calls.go   deadlines and limits of driver calls
package reconcile
