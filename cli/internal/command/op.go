package command

import (
	"errors"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/follow"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

func (s *session) opCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "op",
		Aliases: []string{"operation"},
		Short:   "Follow operations: what became of changes",
		Example: "  lqctl op list\n  lqctl op wait 0b8f5f1e-6c4b-4a43-9c1e-2f5b1f0e7a11",
	}, s.opList(), s.opShow(), s.opWait(), s.opCancel())
}

func operationID(o *operationv1.Operation) string { return o.GetId() }

var operationStates = []string{"running", "done", "failed", "cancelled", "superseded"}

func (s *session) opList() *cobra.Command {
	var object string
	var states []string
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List operations, newest first",
		Example: "  lqctl op list\n  lqctl op list --state running\n  lqctl op list --vm web --limit 5",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return failure.Usage("--limit must not be negative").WithFix("give 0 for all")
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			req := &operationv1.ListOperationsRequest{ProjectId: project}
			for _, w := range states {
				i := slices.Index(operationStates, strings.ToLower(w))
				if i < 0 {
					return unknownValue("--state", w, operationStates)
				}
				req.States = append(req.States, operationv1.OperationState(i+1))
			}
			if object != "" {
				vm, err := getVM(cmd.Context(), c, object, project)
				if err != nil {
					return err
				}
				req.ObjectId = vm.GetMeta().GetId()
			}
			ops, err := c.ListOperations(cmd.Context(), req, limit)
			if err != nil {
				return err
			}
			return printList(s, ops, operationID, render.OperationColumns(s.Now))
		},
	}
	cmd.Flags().StringVar(&object, "vm", "", "only operations on this VM")
	cmd.Flags().StringSliceVar(&states, "state", nil, "only those in these states: "+strings.Join(operationStates, ", "))
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many; 0 = all")
	complete(cmd, "vm", s.vmNames)
	complete(cmd, "state", fixed(operationStates...))
	return cmd
}

func (s *session) getOperation(cmd *cobra.Command, id string) (*operationv1.Operation, error) {
	c, _, err := s.dial()
	if err != nil {
		return nil, err
	}
	resp, err := c.Operations.GetOperation(cmd.Context(), connect.NewRequest(&operationv1.GetOperationRequest{Id: id}))
	if err != nil {
		return nil, err
	}
	return resp.Msg.GetOperation(), nil
}

func (s *session) printOperation(op *operationv1.Operation) error {
	return printOne(s, op, op.GetId(), render.OperationFields(op, s.Now()))
}

func (s *session) opShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show ID",
		Aliases:           []string{"get"},
		Short:             "Show one operation with its phases",
		Example:           "  lqctl op show 0b8f5f1e-6c4b-4a43-9c1e-2f5b1f0e7a11",
		Args:              exactly("ID"),
		ValidArgsFunction: completeArgs(1, s.operationIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			op, err := s.getOperation(cmd, args[0])
			if err != nil {
				return err
			}
			return s.printOperation(op)
		},
	}
}

func (s *session) opWait() *cobra.Command {
	return &cobra.Command{
		Use:               "wait ID",
		Short:             "Wait for the end of an operation",
		Example:           "  lqctl op wait 0b8f5f1e-6c4b-4a43-9c1e-2f5b1f0e7a11 --timeout 5m\n  lqctl op wait $(lqctl vm start web --no-wait)",
		Args:              exactly("ID"),
		ValidArgsFunction: completeArgs(1, s.operationIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			op, err := s.getOperation(cmd, args[0])
			if err != nil {
				return err
			}
			rep := s.reporter()
			op, err = follow.Operation(cmd.Context(), s.client, op, rep)
			rep.Close()
			if !follow.Ended(op) {
				return err
			}
			if s.tabular() {
				if err == nil {
					s.say("%s of %s is done", op.GetVerb(), op.GetObjectName())
				}
				return err
			}
			return errors.Join(s.printOperation(op), err)
		},
	}
}

func (s *session) opCancel() *cobra.Command {
	return &cobra.Command{
		Use:               "cancel ID",
		Short:             "Undo the wish behind an operation: a create becomes a delete, a start a stop",
		Example:           "  lqctl op cancel 0b8f5f1e-6c4b-4a43-9c1e-2f5b1f0e7a11",
		Args:              exactly("ID"),
		ValidArgsFunction: completeArgs(1, s.operationIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Operations.CancelOperation(cmd.Context(), connect.NewRequest(&operationv1.CancelOperationRequest{Id: args[0]}))
			if err != nil {
				return err
			}
			op := resp.Msg.GetOperation()
			if s.tabular() {
				s.say("%s of %s: cancelled", op.GetVerb(), op.GetObjectName())
				return nil
			}
			return s.printOperation(op)
		},
	}
}
