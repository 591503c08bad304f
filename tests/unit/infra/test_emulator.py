"""What is left out of a template for the emulator; ``make aws-check`` deploys the rest to it."""

from typing import Any

from infra.aws.emulator import fit

TEMPLATE: dict[str, Any] = {
    "Parameters": {"BootstrapVersion": {"Type": "String"}},
    "Resources": {
        "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}},
        "Group": {
            "Type": "AWS::EC2::SecurityGroup",
            "DependsOn": ["Nat", "Vpc"],
            "Properties": {"Rules": [{"CidrIp": {"Fn::GetAtt": ["Vpc", "CidrBlock"]}}]},
        },
        "Nat": {"Type": "AWS::EC2::NatGateway", "Properties": {}},
        "Route": {
            "Type": "AWS::EC2::Route",
            "Properties": {"Via": {"Fn::Join": ["", [{"Ref": "Nat"}]]}},
        },
        "Target": {
            "Type": "AWS::ApplicationAutoScaling::ScalableTarget",
            "DependsOn": "Group",
            "Properties": {"Id": {"Fn::GetAtt": ["Group", "GroupId"]}},
        },
        "Task": {
            "Type": "AWS::ECS::TaskDefinition",
            "DependsOn": "Route",
            "Properties": {
                "ContainerDefinitions": [{"Secrets": [{"Name": "A", "ValueFrom": {"Ref": "Vpc"}}]}]
            },
        },
    },
}  # fmt: skip


def test_what_the_emulator_lacks_is_left_out_with_what_refers_to_it() -> None:
    fitted, left_out = fit(TEMPLATE)
    assert fitted["Parameters"] == TEMPLATE["Parameters"]
    assert set(fitted["Resources"]) == {"Vpc", "Group", "Task"}
    assert left_out == {
        "AWS::EC2::NatGateway": 1, "AWS::EC2::Route": 1,
        "AWS::ApplicationAutoScaling::ScalableTarget": 1,
    }  # fmt: skip
    assert fitted["Resources"]["Group"]["DependsOn"] == ["Vpc"]
    assert fitted["Resources"]["Task"]["DependsOn"] == []


def test_references_that_the_emulator_cannot_resolve_have_their_values() -> None:
    fitted, _ = fit(TEMPLATE)
    group = fitted["Resources"]["Group"]["Properties"]
    assert group["Rules"] == [{"CidrIp": "10.0.0.0/16"}]
    (container,) = fitted["Resources"]["Task"]["Properties"]["ContainerDefinitions"]
    assert container["Secrets"] == [{"name": "A", "valueFrom": {"Ref": "Vpc"}}]
    task = TEMPLATE["Resources"]["Task"]["Properties"]
    assert "Name" in task["ContainerDefinitions"][0]["Secrets"][0], "the given one is unchanged"
