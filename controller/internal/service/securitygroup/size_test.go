package securitygroup_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/securitygroup"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// A group of as many rules as there may be, each with a description, fits a real store together with the answer that its request id keeps; it comes back whole from the watch, and
// from a store that is opened again.
func TestLargestGroupFitsTheStore(t *testing.T) {
	dir := t.TempDir()
	rules := make([]*networkv1.SecurityRule, 10_000)
	for i := range rules {
		rules[i] = &networkv1.SecurityRule{
			Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: "tcp", PortFirst: uint32(1 + i), PortLast: uint32(2 + i),
			Description: fmt.Sprintf("ticket %d: lets the office of customer %d in", 90_000-i*7, i), Remote: &networkv1.SecurityRule_Cidr{Cidr: fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)},
		}
	}
	var id string
	serve(t, dir, func(s *securitygroup.Service) {
		begun := time.Now()
		made, err := s.CreateSecurityGroup(context.Background(), connect.NewRequest(&networkv1.CreateSecurityGroupRequest{RequestId: "once", SecurityGroup: &networkv1.SecurityGroup{
			Meta: &metav1.ObjectMeta{Name: "big"}, Spec: &networkv1.SecurityGroupSpec{Rules: rules},
		}}))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("made in %s", time.Since(begun))
		id = made.Msg.GetSecurityGroup().GetMeta().GetId()
		begun = time.Now()
		if _, err := s.RemoveRule(context.Background(), connect.NewRequest(&networkv1.RemoveRuleRequest{Id: "big", RuleId: made.Msg.GetSecurityGroup().GetSpec().GetRules()[0].GetId()})); err != nil {
			t.Fatal(err)
		}
		t.Logf("a rule removed in %s", time.Since(begun))
	})
	serve(t, dir, func(s *securitygroup.Service) {
		got, err := s.GetSecurityGroup(context.Background(), connect.NewRequest(&networkv1.GetSecurityGroupRequest{Id: id}))
		if err != nil {
			t.Fatal(err)
		}
		if have := got.Msg.GetSecurityGroup().GetSpec().GetRules(); len(have) != 9_999 || have[9_998].GetDescription() != rules[9_999].GetDescription() {
			t.Errorf("%d rules came back", len(have))
		}
	})
}

// serve runs the service over an etcd in a directory.
func serve(t *testing.T, dir string, do func(*securitygroup.Service)) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	store, err := etcd.OpenEmbedded(ctx, etcd.EmbeddedConfig{Dir: dir, Common: etcd.Common{Logger: log}})
	if err != nil {
		t.Fatal(err)
	}
	cache := state.NewCache(store, log, time.Now)
	done := make(chan struct{})
	go func() { defer close(done); _ = cache.Run(ctx) }()
	<-cache.Loaded()
	defer func() {
		cancel()
		<-done
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	do(securitygroup.New(securitygroup.Config{Cache: cache, Runner: &request.Runner{Store: store, Cache: cache, Now: time.Now}, Now: time.Now}))
}
