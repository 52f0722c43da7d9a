// Package sdk is what the author of a driver plugin imports. A plugin is a main package of a dozen lines:
//
//	func main() {
//		base := sdk.NewBasePlugin(sdk.Info{Name: "kvm", Version: version}, configure)
//		sdk.Serve(sdk.Plugin{Base: base, Compute: &driver{base: base}})
//	}
//
// Compute, Storage and Network are the generated gRPC server interfaces of limiquantix.driver.v1; whichever is set is served, and the plugin's kinds follow
// from them. Base is the part that every plugin has (PluginService); BasePlugin implements all of it but the configuration.
//
// Errors are made with package fault of the proto module. Serve adds what every plugin needs: handshake and AutoMTLS of go-plugin, health service, the message
// limit, a recover per call (PLUGIN_PANIC), refusal of driver calls before Configure, logs in the form that the host relays, a quiet end when the host is gone.
//
// The host's side is package sdk/host; the suites that a driver must pass are the module sdk/conformance.
package sdk
