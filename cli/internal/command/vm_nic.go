package command

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func (s *session) nicCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "nic",
		Short:   "Add, remove and list network interfaces of a VM, also while it runs",
		Example: "  lqctl vm nic add web network=lan,sg=web\n  lqctl vm nic list web\n  lqctl vm nic remove web nic1",
	}, s.nicAdd(), s.nicRemove(), s.nicList())
}

func (s *session) nicAdd() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:   "add VM NIC",
		Short: "Add a network interface to a VM; a running guest gets it at once",
		Long: "Adds a network interface, written as lqctl vm create --nic takes it: network=NAME[,sg=GROUP+GROUP][,ip=ADDRESS][,queues=N], port=NAME or\n" +
			"user, and besides name=, mac=, model=. Its name is the first free one of nic0, nic1, ... unless given.",
		Example:           "  lqctl vm nic add web network=lan,sg=web+ssh\n  lqctl vm nic add web port=vip,name=front",
		Args:              exactly("VM", "NIC"),
		ValidArgsFunction: completeArgs(1, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := parseNIC(args[1], "")
			if err != nil {
				return failure.Usage("NIC %q: %w", args[1], err).WithFix("write for example network=lan,sg=web, or port=vip")
			}
			return s.changeNICs(cmd.Context(), args[0], noWait, func(nics []*computev1.NIC) ([]*computev1.NIC, string, error) {
				have := map[string]bool{}
				for _, o := range nics {
					have[o.GetName()] = true
				}
				if have[n.GetName()] {
					return nil, "", failure.New(failure.ExitConflict, "NAME_TAKEN", "VM %s has an interface %q already", args[0], n.GetName()).WithFix("give another name=, or remove it first")
				}
				for i := 0; n.GetName() == "" || have[n.GetName()]; i++ {
					n.Name = fmt.Sprintf("nic%d", i)
				}
				return append(nics, n), "has interface " + n.GetName(), nil
			})
		},
	}
	addNoWait(cmd, &noWait)
	return cmd
}

func (s *session) nicRemove() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:               "remove VM NAME",
		Aliases:           []string{"rm", "delete"},
		Short:             "Take a network interface out of a VM, with the port that was made for it",
		Example:           "  lqctl vm nic remove web nic1",
		Args:              exactly("VM", "NAME"),
		ValidArgsFunction: completeArgs(1, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.changeNICs(cmd.Context(), args[0], noWait, func(nics []*computev1.NIC) ([]*computev1.NIC, string, error) {
				i := slices.IndexFunc(nics, func(o *computev1.NIC) bool { return o.GetName() == args[1] })
				if i < 0 {
					var names []string
					for _, o := range nics {
						names = append(names, o.GetName())
					}
					return nil, "", failure.New(failure.ExitNotFound, "NOT_FOUND", "VM %s has no interface %q", args[0], args[1]).WithFix("it has: %s", listOr(names, "none"))
				}
				return slices.Delete(nics, i, i+1), "is without interface " + args[1], nil
			})
		},
	}
	addNoWait(cmd, &noWait)
	return cmd
}

// changeNICs reads a VM, changes its interfaces, and writes them if nobody else has meanwhile.
func (s *session) changeNICs(ctx context.Context, name string, noWait bool, change func([]*computev1.NIC) ([]*computev1.NIC, string, error)) error {
	c, project, err := s.dial()
	if err != nil {
		return err
	}
	var resp *connect.Response[computev1.UpdateVMResponse]
	var done string
	err = unlessStale(func() error {
		vm, err := getVM(ctx, c, name, project)
		if err != nil {
			return err
		}
		var nics []*computev1.NIC
		if nics, done, err = change(slices.Clone(vm.GetSpec().GetNics())); err != nil {
			return err
		}
		resp, err = updateNICs(ctx, c, vm, nics)
		return err
	})
	if err != nil {
		return err
	}
	vm := resp.Msg.GetVm()
	if vm.GetStatus().GetRestartRequired() {
		done += " from its next start on"
	}
	return s.settle(ctx, c, []accepted{{name: name, op: resp.Msg.GetOperation(), object: vm, final: vmNow(c, vm), done: done}}, noWait, false)
}

func updateNICs(ctx context.Context, c *api.Client, vm *computev1.VM, nics []*computev1.NIC) (*connect.Response[computev1.UpdateVMResponse], error) {
	return c.VMs.UpdateVM(ctx, connect.NewRequest(&computev1.UpdateVMRequest{
		Vm:         &computev1.VM{Meta: &metav1.ObjectMeta{Id: vm.GetMeta().GetId(), Etag: vm.GetMeta().GetEtag()}, Spec: &computev1.VMSpec{Nics: nics}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.nics"}},
	}))
}

func (s *session) nicList() *cobra.Command {
	return &cobra.Command{
		Use:               "list VM",
		Aliases:           []string{"ls"},
		Short:             "List the network interfaces of a VM with their addresses",
		Example:           "  lqctl vm nic list web",
		Args:              exactly("VM"),
		ValidArgsFunction: completeArgs(1, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			vm, err := getVM(cmd.Context(), c, args[0], project)
			if err != nil {
				return err
			}
			names := newLookup(cmd.Context(), c, vm.GetMeta().GetProjectId())
			return printList(s, vm.GetSpec().GetNics(), (*computev1.NIC).GetName, render.NICColumns(vm.GetStatus(), names.port))
		},
	}
}
