<?php

// Personal access tokens as Sanctum documents them, in as little code as the tests need. The classes are our own; the
// application knows them by the names of the package, so that the same application runs with either.

const NAMES = [
    'Laravel\Sanctum\Sanctum' => 'TokensModel\Registry',
    'Laravel\Sanctum\SanctumServiceProvider' => 'TokensModel\GuardProvider',
    'Laravel\Sanctum\PersonalAccessToken' => 'TokensModel\IssuedToken',
    'Laravel\Sanctum\HasApiTokens' => 'TokensModel\TokenOwner',
    'Laravel\Sanctum\Http\Middleware\CheckAbilities' => 'TokensModel\RequireEveryAbility',
    'Laravel\Sanctum\Http\Middleware\CheckForAnyAbility' => 'TokensModel\RequireSomeAbility',
    'Laravel\Sanctum\Http\Middleware\EnsureFrontendRequestsAreStateful' => 'TokensModel\StartSessionOnStatefulHosts',
];

spl_autoload_register(function (string $wanted): void {
    $own = NAMES[$wanted] ?? $wanted;
    [$namespace, $class] = array_pad(explode('\\', $own, 2), 2, '');
    if ($namespace !== 'TokensModel') {
        return;
    }
    require_once __DIR__."/$class.php";
    // Both names at once: `instanceof` and type hints load nothing.
    if ($name = array_search($own, NAMES, true)) {
        class_alias($own, $name);
    }
});
