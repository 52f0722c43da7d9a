package proto_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	_ "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	_ "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	_ "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	_ "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	_ "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	_ "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	_ "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func services(t *testing.T) map[string]protoreflect.ServiceDescriptor {
	t.Helper()
	out := map[string]protoreflect.ServiceDescriptor{}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(string(f.Package()), "limiquantix.") {
			for i := range f.Services().Len() {
				out[string(f.Services().Get(i).FullName())] = f.Services().Get(i)
			}
		}
		return true
	})
	return out
}

// The names that the mission fixes are there.
func TestFixedNames(t *testing.T) {
	all := services(t)
	for service, methods := range map[string]string{
		"limiquantix.compute.v1.VMService":             "CreateVM GetVM ListVMs UpdateVM DeleteVM StartVM StopVM",
		"limiquantix.compute.v1.NodeService":           "RegisterNode GetNode ListNodes UpdateNode DeleteNode Heartbeat",
		"limiquantix.network.v1.VirtualNetworkService": "CreateNetwork GetNetwork ListNetworks UpdateNetwork DeleteNetwork GetNetworkTopology",
		"limiquantix.network.v1.SecurityGroupService":  "CreateSecurityGroup GetSecurityGroup ListSecurityGroups UpdateSecurityGroup DeleteSecurityGroup AddRule RemoveRule",
		"limiquantix.storage.v1.StoragePoolService":    "", "limiquantix.storage.v1.VolumeService": "",
		"limiquantix.storage.v1.SnapshotService": "", "limiquantix.storage.v1.ImageService": "",
		"limiquantix.operation.v1.OperationService": "", "limiquantix.agent.v1.AgentService": "Enrol Renew WatchDesired ReportStatus Tunnel",
		"limiquantix.driver.v1.PluginService": "GetPluginInfo GetConfigSchema Configure GetCapabilities WatchHealth WatchEvents Shutdown",
	} {
		sd := all[service]
		if sd == nil {
			t.Errorf("no service %s", service)
			continue
		}
		for _, m := range strings.Fields(methods) {
			if sd.Methods().ByName(protoreflect.Name(m)) == nil {
				t.Errorf("%s has no %s", service, m)
			}
		}
	}
}

// A field that holds a secret is redacted wherever a message is printed.
func TestSecretsAreRedacted(t *testing.T) {
	secret := map[protoreflect.Name]bool{"user_data": true, "secrets": true, "token": true, "key": false, "migration_token": true, "password": true}
	var walk func(protoreflect.MessageDescriptors)
	walk = func(ms protoreflect.MessageDescriptors) {
		for i := range ms.Len() {
			m := ms.Get(i)
			if m.IsMapEntry() || m.ParentFile().Package() == "limiquantix.state.v1" {
				continue
			}
			for j := range m.Fields().Len() {
				f := m.Fields().Get(j)
				opts, _ := f.Options().(*descriptorpb.FieldOptions)
				if secret[f.Name()] && !opts.GetDebugRedact() {
					t.Errorf("%s is not debug_redact", f.FullName())
				}
			}
			walk(m.Messages())
		}
	}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(string(f.Package()), "limiquantix.") {
			walk(f.Messages())
		}
		return true
	})
}

// Every mutation of a public service can be repeated safely: it takes a request_id.
func TestMutationsTakeARequestID(t *testing.T) {
	exempt := map[string]bool{"DeleteJoinToken": true, "Heartbeat": true}
	for name, sd := range services(t) {
		if strings.HasPrefix(name, "limiquantix.driver.") || strings.HasPrefix(name, "limiquantix.agent.") {
			continue
		}
		for i := range sd.Methods().Len() {
			m := sd.Methods().Get(i)
			for _, verb := range []string{"Create", "Update", "Delete", "Start", "Stop", "Reboot", "Pause", "Resume", "Register", "Add", "Remove", "Cancel", "Cordon", "Uncordon"} {
				if strings.HasPrefix(string(m.Name()), verb) && !exempt[string(m.Name())] && !m.IsStreamingClient() && m.Input().Fields().ByName("request_id") == nil {
					t.Errorf("%s.%s takes no request_id", name, m.Name())
				}
			}
		}
	}
}
