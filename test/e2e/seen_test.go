package e2e

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	rpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/limiquantix/limiquantix/test/stack"
)

// Both daemons' metrics keep Prometheus' conventions and tell of nodes, VMs and plugins.
func TestMetrics(t *testing.T) {
	s := common(t)
	lq(t, s, small("measured", "")...)
	defer lq(t, s, "vm", "delete", "measured")
	for of, want := range map[string][]string{
		"controller": {"limiquantix_controller_"}, "agent": {"limiquantix_agent_", "limiquantix_plugin_", "limiquantix_vm_", "limiquantix_node_"},
	} {
		var page []byte
		err := stack.Until(t.Context(), time.Minute, of+" tells all", func() (bool, string) {
			var err error
			if page, err = s.Metrics(t.Context(), of); err != nil {
				return false, err.Error()
			}
			for _, w := range want {
				if !strings.Contains(string(page), w) {
					return false, "lacks " + w
				}
			}
			return true, ""
		})
		if err != nil {
			t.Fatal(err)
		}
		problems, err := promlint.New(bytes.NewReader(page)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s: %s", of, p.Metric, p.Text)
		}
	}
}

// What grpcurl does: the services are listed by reflection.
func TestReflectionListsServices(t *testing.T) {
	s := common(t)
	conn, err := grpc.NewClient(strings.TrimPrefix(s.Server, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := rpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&rpb.ServerReflectionRequest{MessageRequest: &rpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range r.GetListServicesResponse().GetService() {
		names = append(names, n.GetName())
	}
	for _, want := range []string{
		"limiquantix.compute.v1.VMService", "limiquantix.compute.v1.NodeService", "limiquantix.operation.v1.OperationService",
		"limiquantix.network.v1.VirtualNetworkService", "limiquantix.network.v1.SecurityGroupService", "limiquantix.storage.v1.StoragePoolService",
		"limiquantix.storage.v1.VolumeService", "limiquantix.storage.v1.SnapshotService", "limiquantix.storage.v1.ImageService",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not listed among %v", want, names)
		}
	}
}
