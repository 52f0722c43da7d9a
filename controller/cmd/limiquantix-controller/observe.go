package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/limiquantix/limiquantix/controller/internal/pki"
	"github.com/limiquantix/limiquantix/controller/internal/server"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// apiVersions are the packages that the public port serves.
var apiVersions = []string{"compute.v1", "network.v1", "operation.v1", "storage.v1"}

// probes are the HTTP endpoints of this controller.
func (c *controller) probes(self server.Leader) server.Probes {
	return server.Probes{
		Started: c.started,
		Leader:  c.lead.Leader,
		Info: server.Info{
			Name: "limiquantix-controller", Version: version, Commit: commit, ClusterID: c.cluster.ID, ControllerID: self.ID,
			APIVersions: apiVersions, StoreKind: c.storeKind(),
		},
		Checks: []server.Check{
			{Name: "store", Run: c.checkStore},
			{Name: "store_space", Run: c.checkSpace},
			{Name: "state", Run: c.checkState},
			{Name: "leader", Run: c.checkLeader},
		},
	}
}

func (c *controller) checkStore(ctx context.Context) (string, error) {
	st, err := c.store.Status(ctx)
	if err != nil {
		return "", fmt.Errorf("the store does not answer: %w", err)
	}
	return fmt.Sprintf("answers, at revision %d", st.Revision), nil
}

func (c *controller) checkSpace(ctx context.Context) (string, error) {
	st, err := c.store.Status(ctx)
	switch {
	case err != nil:
		return "", fmt.Errorf("the store does not answer: %w", err)
	case st.NoSpace:
		return "", fmt.Errorf("writes are refused: %s", st.Reason)
	case st.QuotaBytes == 0:
		return fmt.Sprintf("%d bytes, no quota", st.SizeBytes), nil
	}
	return fmt.Sprintf("%d of %d bytes", st.SizeBytes, st.QuotaBytes), nil
}

func (c *controller) checkState(context.Context) (string, error) {
	if err := c.cache.Ready(); err != nil {
		return "", err
	}
	return fmt.Sprintf("follows the store, at revision %d", c.cache.Revision()), nil
}

func (c *controller) checkLeader(context.Context) (string, error) {
	switch l := c.lead.Leader(); {
	case c.lead.Leading():
		return "this controller leads", nil
	case l.ID != "":
		return "controller " + l.ID + " at " + l.Address + " leads", nil
	}
	return "", errors.New("no controller leads; one will within seconds")
}

// sources are what the metrics are collected from.
func (c *controller) sources() server.Sources {
	return server.Sources{Store: c.store, Objects: c.countObjects, Pending: func() int { return countPending(c.cache) }, Leading: c.lead.Leading}
}

var phases = map[state.Kind]protoreflect.EnumType{
	state.KindVM:            computev1.VMPhase(0).Type(),
	state.KindNode:          computev1.NodePhase(0).Type(),
	state.KindVolume:        storagev1.VolumePhase(0).Type(),
	state.KindPool:          nil,
	state.KindImage:         storagev1.ImagePhase(0).Type(),
	state.KindNetwork:       networkv1.NetworkPhase(0).Type(),
	state.KindPort:          networkv1.PortPhase(0).Type(),
	state.KindSecurityGroup: networkv1.SecurityGroupPhase(0).Type(),
	state.KindOperation:     operationv1.OperationState(0).Type(),
	state.KindJoinToken:     nil,
}

// countObjects counts every record by kind and phase.
func (c *controller) countObjects() []server.ObjectCount {
	var out []server.ObjectCount
	for kind, enum := range phases {
		counts := map[string]int{}
		for _, row := range c.cache.Find(state.Query{Kind: kind}).Rows {
			counts[phaseName(enum, row.Phase)]++
		}
		for phase, n := range counts {
			out = append(out, server.ObjectCount{Kind: string(kind), Phase: phase, Count: n})
		}
	}
	return out
}

// phaseName is a phase without its enum's prefix, in lower case.
func phaseName(enum protoreflect.EnumType, phase int32) string {
	if enum == nil {
		return ""
	}
	values := enum.Descriptor().Values()
	v := values.ByNumber(protoreflect.EnumNumber(phase))
	if v == nil {
		return "unknown"
	}
	prefix := strings.TrimSuffix(string(values.ByNumber(0).Name()), "UNSPECIFIED")
	return strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix))
}

// nodeRecord is a node's record for the agent port; nil when there is none.
func (c *controller) nodeRecord(id string) *statev1.NodeRecord {
	if row := c.cache.Row(state.KindNode, id); row != nil {
		return row.Node()
	}
	return nil
}

// openTokens reads the admin token's hash, and says so when this host does not have the token.
func (c *controller) openTokens(ctx context.Context) error {
	c.tokens = &server.Tokens{Remedy: "send \"Authorization: Bearer TOKEN\"; the admin token is in " + pki.TokenFile +
		" in the controller's data directory, and lqctl on the same host finds it"}
	hash, err := pki.AdminTokenSHA256(ctx, c.store)
	if err != nil {
		return err
	}
	c.tokens.SetAdmin(hash)
	ok, err := pki.TokenFileHolds(c.cluster.TokenFile, hash)
	if err != nil {
		return err
	}
	if !ok {
		c.log.Warn("the admin token is not on this host; make a new one with: limiquantix-controller admin-token --reset",
			"admin_token_file", c.cluster.TokenFile)
	}
	return nil
}

// refreshToken follows a reset of the admin token by another process on the same store, until ctx ends.
func (c *controller) refreshToken(ctx context.Context) {
	for pause(ctx, tokenInterval) {
		if hash, err := pki.AdminTokenSHA256(ctx, c.store); err == nil {
			c.tokens.SetAdmin(hash)
		}
	}
}
