// Package host is the agent's side of a plugin: it reads a plugin's manifest, launches its binary, negotiates, watches and stops it (Launch, Process),
// and keeps one plugin running for as long as it is wanted (Supervisor).
//
//	m, err := host.ReadManifest(dir)                         // plugin.json, read without running anything
//	s := host.NewSupervisor(host.Spec{Dir: dir, RuntimeDir: run, Host: facts, ConfigJSON: cfg, Secrets: sec}, host.Policy{})
//	s.Start()                                                // returns at once; the plugin comes up behind it
//	for st := range s.Subscribe(ctx) { ... }                 // Status: State, Reason, Message, PID, Restarts, Attributes, Version, Capabilities
//	dom, err := s.Compute().GetDomain(ctx, req)              // fails at once with PLUGIN_UNAVAILABLE or PLUGIN_QUARANTINED when it is not up
//	err = s.Swap(ctx, newSpec)                               // hot swap; on failure the old process stays
//	err = s.Reset()                                          // out of quarantine
//	s.Close(ctx)                                             // stops the plugin, leaves no goroutine
//
// What may not live here: anything that knows VMs, volumes or networks.
//
// Every error is a *fault.Error (or wraps one), so errors.As and fault.Is work; reasons: PLUGIN_MISSING, PLUGIN_INVALID, PLUGIN_UNAVAILABLE,
// PLUGIN_QUARANTINED, and whatever the plugin itself says.
package host
